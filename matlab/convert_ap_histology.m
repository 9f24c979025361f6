function convert_ap_histology(file, out_folder, probes)
% CONVERT_AP_HISTOLOGY  Probes traced with AP_Histology as xyz_picks.json for IBL's alignment tool.
%
%   convert_ap_histology(file, out_folder)
%   convert_ap_histology(file, out_folder, {'probe00', 1; 'probe01', 2})
%   convert_ap_histology(file, out_folder, {'probe00_shank1', 'left'; 'probe00_shank2', 'right'})
%
%   file        probe_ccf.mat (until 2025) or AP_histology_processing.mat (from 2025)
%   out_folder  folder for xyz_picks.json, or <probe>/xyz_picks.json
%   probes      which probe a track (number or label) is; not needed where there is one track only
%
%   See write_xyz_picks for what the picks are. Runs in MATLAB and Octave.

  if nargin < 3
    probes = {};
  end
  loaded = load(file);
  if isfield(loaded, 'probe_ccf')
    [names, points] = tracks_v1(loaded.probe_ccf);
  elseif isfield(loaded, 'AP_histology_processing')
    [names, points] = tracks_v2(file, loaded.AP_histology_processing);
  else
    error('powerpixels:histology', ...
      '%s: expected probe_ccf or AP_histology_processing, found neither; save it with AP_Histology', file);
  end
  % Its voxels are of 10 micrometres and counted from 1; a voxel's place is its index from 0 times its size.
  for k = 1:numel(points)
    points{k} = (points{k} - 1) * 10;
  end
  write_xyz_picks(file, names, points, out_folder, probes);
end

function [names, points] = tracks_v1(probe_ccf)
% Voxels (n x 3: AP, DV, ML) of each probe; they have no names.
  n = numel(probe_ccf);
  names = repmat({''}, 1, n);
  points = cell(1, n);
  for k = 1:n
    points{k} = double(probe_ccf(k).points);
  end
end

function [names, points] = tracks_v2(file, processing)
% Labels and voxels (n x 3: AP, DV, ML) of each annotation, from all slices.
  if ~isfield(processing, 'annotation') || isempty(processing.annotation)
    error('powerpixels:histology', ...
      '%s: expected annotations, there is none; draw the probes with AP_Histology', file);
  end
  annotation = processing.annotation;
  n = numel(annotation);
  names = cell(1, n);
  points = cell(1, n);
  for k = 1:n
    names{k} = char(annotation(k).label);
    points{k} = zeros(0, 3);
    slices = annotation(k).vertices_ccf;
    for j = 1:numel(slices)
      if isempty(slices(j).ap)
        continue
      end
      voxels = [double(slices(j).ap(:)), double(slices(j).dv(:)), double(slices(j).ml(:))];
      points{k} = [points{k}; voxels];
    end
  end
end
